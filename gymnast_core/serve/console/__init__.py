"""The station's console: what people look at while it practises and acts, and the buttons by which they operate it.

Nothing here knows ROS: `gymnast_nodes.console_node` fills a `Snapshot` and does what the buttons ask for.
"""
