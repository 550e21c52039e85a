"""`python -m docs.generate`: write every page that is made from the code."""

from docs.generate import ROOT, generators, page

for module in generators():
    path, text = page(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    path.write_text(text, encoding="utf-8")
    print(f"{'wrote' if changed else 'same '} {path.relative_to(ROOT)}")
