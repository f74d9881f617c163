"""The lab: does the data make a student better? Strategies, fine-tuning and evaluation in one experiment (Table 1).

`config` says what is compared, `questions` and `data` make what is learned, `units` does one part in a process of its
own, `run` does them all in the processes of `workers`, `results` reads what is there, `table` and `pictures` show it.
Composes the other programs; has no synthesis, fine-tuning or judging of its own.
"""
