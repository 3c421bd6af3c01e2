"""What a member can prove of what passed between it and others: papers, and the log that they stand in."""
