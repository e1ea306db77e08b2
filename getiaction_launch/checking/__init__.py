"""What is found out about a run before it waits in a queue: builds its spec, reads its script.

Nothing here starts a run or writes to its directory. What a spec names is built in a process of its
own (:mod:`getiaction_launch.checking.trial`), which imports torch and Lightning, and ``rules`` and
``classes`` judge what was built. A script is read (``source``) and judged as a program (``script``)
and as one of several ranks (``ranks``). One that uses Lightning is then run there, too, up to its
first fit, and any other one that uses torch up to its second optimizer step.
"""
