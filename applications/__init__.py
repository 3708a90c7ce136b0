"""Command-line applications: samples, videos and meshes of label maps, the demo and the editor.

`cli` has the options that they share; the work is done by `inference`. `demo` runs the others; else no application
imports another one.
"""
