"""Collections of photos: walking them, and leaving captions where the photos are."""
