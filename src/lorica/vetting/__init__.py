"""Does an adapter prove itself: on disk, on its base and in its engine? Findings, one verdict, one diagnosis."""
