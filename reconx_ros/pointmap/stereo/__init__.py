"""Multi-view stereo of posed views: plane sweep, semi-global smoothing, cross-view consistency."""
