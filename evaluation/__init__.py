"""Measures codecs on images: whole files, decoded and compared, in tables and reports. Needs no torch."""
