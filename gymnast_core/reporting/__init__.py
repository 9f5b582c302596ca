"""What a run leaves for people to look at: pictures, videos, statistics, one HTML page. Below every other part."""
