"""One page about runs: what is read of their directories, and how it is drawn as HTML."""
