"""`python -m specsafe`."""

from specsafe.cli.main import main

main()
