"""Pages of results (`--html`): what each command shows of its result, as one file that opens from disk."""
