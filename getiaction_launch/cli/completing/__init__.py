"""The verb ``completion``: what a shell needs to complete words on TAB."""
