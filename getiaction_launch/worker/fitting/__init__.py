"""One ``Trainer.fit`` of a program: which one it is, where it resumes, and what it has done."""
