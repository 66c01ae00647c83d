"""Outrider's supervisor: the `outrider` command, and the process that owns the sockets and the decisions."""
