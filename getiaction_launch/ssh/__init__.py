"""A cluster whose commands are typed on a laptop, and run on its login node by the user's OpenSSH.

Nothing of the launcher is written twice for it. The laptop's side (``client``) sends the words of a
command, and the user's code with those that start something (``parcel``); the other side
(``far_side``) hands the words to the command line there.
"""
