"""One node assembled: storage behind a socket, delivery to subscribers, registration with the index."""
