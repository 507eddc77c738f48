"""What this machine can run, what each other variant lacks, and the command that mends it."""
