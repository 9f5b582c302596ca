"""gymnast: a robot practises in imagination before it moves. No ROS import anywhere below this package."""

__version__ = "0.1.0"
