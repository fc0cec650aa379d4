"""The engine on Lorica's own decoder: plan -> run -> commit."""
