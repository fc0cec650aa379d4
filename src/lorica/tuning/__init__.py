"""A study of training settings: what is varied, what was tried, what to try next, and when a trial should end."""
