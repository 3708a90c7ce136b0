"""A toy world whose 3D is known: procedural cats and cars, rendered with poses, label maps and depth."""
