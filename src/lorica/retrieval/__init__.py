"""Knowledge bases: documents in, passages out, one index per subject."""
