"""Making data sets: packing a user's images, label maps and cameras, edge drawings, contact sheets, toy data.

Reading and checking finished data sets is in training/data/.
"""
