"""The only readers and writers of users' files: rows in (`read`), answers out (`write`), progress kept
(`journal`), rows divided (`split`), files identified (`digest`). Formats and rules: docs/rows.md."""
