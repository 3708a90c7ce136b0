"""The interactive editor: a web page on which label maps are drawn from any view, and the server that renders them.

The command line is applications/edit.py; everything about scenes that other programs can use is in `inference`.
`protocol` defines and checks messages, `requests` turns them into jobs, `worker` schedules jobs, `model` computes,
`session_file` reads and writes files, `server` speaks HTTP and WebSocket, `security` checks the Host and Origin of
requests, and `static/` is the page. Shape letters: R pixels on a side of drawings and images, P plane resolution.
"""
