"""`python -m engine.jobs RUN FOLDER [--offline] [--resume]`: measures a queued run."""

from engine.jobs.local import main

main()
