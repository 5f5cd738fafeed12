"""Does fine-tuning at a high learning rate over-memorize, since when, and what does it cost?"""
