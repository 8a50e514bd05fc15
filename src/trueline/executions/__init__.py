"""Many steps of SGD in one turn of Lightning's loop, by the maps of `trueline.recurrence`.

`rows` makes moments of batches, `full_batch` of all rows; `spans` composes their steps, `executor`
cuts a training into spans and goes on inside one, and `execution` is what comes of that. `method`
chooses how steps are taken, `lookahead` says how many may be before something is due, and `loop`
brings it all under Lightning.

A callback with `knows_executions` true need not see each step; one with a method `watched_steps`
says before and after which steps of an execution it will ask for the state.
"""
