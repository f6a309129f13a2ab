"""Damaged and hostile files of every kind that openmm-les reads, tried in child processes.

``python -m fuzzing`` (with ``tests`` on the path; ``make fuzz``) makes sound files, changes them in
ways that are fixed by a number, and reads each as a user's command would. A file has to be refused
by an error of ours that names it in one line, or mean what it meant before.

=================  ===============================================================================
`mutate`           changes of bytes, zip members, opcodes of pickles, JSON values and text
`hostile_*`        files that somebody made on purpose
`seeds`            the sound files
`targets`          the table of kinds: seeds, how they are read, hostile files
`verdicts`         what may come out of a case
`worker`           one child process: limits of time and memory, the verdict of each case
`supervise`        the parent, which replaces a child that died and names the case
=================  ===============================================================================
"""
