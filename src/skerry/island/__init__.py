"""What a training process and its agent share: memory that outlives either, and the channel of orders between them."""
