"""Many steps of SGD in one turn of Lightning's loop, by the maps of `trueline.recurrence`.

`rows` makes moments of batches, `spans` composes and keeps what resuming needs, `lookahead` says
how many steps may be taken before something is due, and `loop` brings it all under Lightning.
"""
