"""What a job may take of a machine, and where what it took is written down."""


def scaled(need):
    """Memory or time that grows with each attempt: what a job was killed for want of, the next try gets."""

    def resource(wildcards, attempt):
        return need * attempt

    return resource
