"""What applications use: the client, publishing, subscriptions, and how the owner of a topic is found."""
