//! The loop: read, net, project, diff, embed, write, checkpoint. Speaks only contracts.
