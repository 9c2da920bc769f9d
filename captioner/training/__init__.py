"""Training, export and scoring: what only somebody who makes a model needs.

Nothing that serves imports from here. TensorFlow and Keras are imported by the modules that compute
with them, never by this file, so that reading a collection or scoring captions does without.
"""
