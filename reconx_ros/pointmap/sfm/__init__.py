"""Structure from motion on a few images: features, matches, two-view geometry, tracks, mapping, bundle adjustment."""
