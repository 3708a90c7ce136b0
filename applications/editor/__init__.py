"""The interactive editor: a page that paints label maps in any view, and the server that renders them.

`protocol` says what page and server tell each other, `studio` computes, `worker` decides what is computed next,
`requests` does what a message asks for, `guard` decides whom the server answers, `server` speaks HTTP and WebSocket,
`static/` is the page.
"""
