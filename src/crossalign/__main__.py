"""``python -m crossalign``, which is how ``torchrun`` starts it."""

from crossalign.cli.main import main

if __name__ == "__main__":
    main()
