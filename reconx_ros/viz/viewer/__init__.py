"""A look at a result, or at a running node, in a browser.

``data`` is what is shown, ``model`` which part of it and in which colours, ``geometry`` and ``measure`` the arithmetic;
none of these knows viser. ``server``, ``stage``, ``panel`` and ``app`` are the shell that does.
"""
