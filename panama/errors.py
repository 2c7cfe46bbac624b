"""Errors of the simulator a caller may want to catch."""


class StallError(RuntimeError):
    """A job waits for something that will never come.

    job:     place in the plan
    psn:     packet number of the job (the message's number, for jobs that send messages)
    node:    place of the tree node that lacks children, -1 for messages
    switch:  the network's node it stands at, -1 for messages
    missing: children that have not come
    """

    def __init__(
        self, job: int, psn: int, node: int, switch: int, missing: tuple[int, ...]
    ) -> None:
        self.job, self.psn, self.node, self.switch, self.missing = job, psn, node, switch, missing
        if node < 0:
            text = f"job {job} waits for message {psn}, which will never be sent: see what it waits for"
        else:
            what = f"children {list(missing)} have not come" if missing else "its result was lost"
            text = f"job {job} waits for packet {psn} at switch {switch} (tree node {node}): {what}"
        super().__init__(text)
