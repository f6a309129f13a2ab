import click


@click.group("repex")
def command() -> None:
    """x"""
