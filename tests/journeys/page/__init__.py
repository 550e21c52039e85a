"""The live page in a real browser, beside a real server whose streams move."""
