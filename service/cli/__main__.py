"""`python -m service.cli`: the same as the console script `freshet`."""

from service.cli.main import main

main()
