"""Many steps in one turn of Lightning's loop, taken by `trueline.loop`.

`single_steps` says why a training cannot take them; `due` says how many there may be before
something else is due; `runner` brings parameters and options into the loop and its results back.

A callback with `knows_executions` true need not see each step. One with a method `watched_steps`
says before and after which steps it will ask for the state.
"""
