"""What web pages may do here: a browser carries out requests for any page that its user visits.

``hosts``: the names of this server in the Host header, against DNS rebinding. ``origins``: the pages that may send
requests and read the replies. ``guard`` applies both to a request. It knows no keys: a page can't know one.
"""
