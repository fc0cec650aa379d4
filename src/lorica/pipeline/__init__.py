"""The stages in a line: rows -> route -> render -> encode -> engine -> parse -> write -> measure."""
