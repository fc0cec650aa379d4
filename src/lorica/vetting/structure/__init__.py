"""Do names, shapes and config agree with each other (L1)?"""
