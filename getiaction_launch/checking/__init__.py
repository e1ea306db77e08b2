"""What is found out about a run before it waits in a queue: builds its spec, reads its script.

Nothing here starts a run or writes to its directory. What a spec names is built in a process of its
own (:mod:`getiaction_launch.checking.trial`), which imports torch and Lightning; scripts are read
and never run.
"""
