"""The same ten tasks as plain scripts of this and of other libraries: one function a task, its body what is counted."""
