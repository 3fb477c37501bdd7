"""What Alembic runs for any command: the migrations, on the connection it was handed.

The connection is inside the one writing transaction of `schema.make_tables`, which commits.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
