"""kill -9 at random moments of a training run, again and again, and a look at what is left each time.

Trials are chained: a run is killed, resumed, killed again, until it is complete; then another begins. After every kill
all committed checkpoints are read and compared, bit for bit, with those of a run that nobody killed.

`job` is the training run, `victims` finds and kills, `stage` says what a kill interrupted, `trial` is one of them,
`chain` a run from its beginning to its end, `record` holds results and tells them, `report` is the command.
"""
