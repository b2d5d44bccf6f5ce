"""From messages to frames, once: decoding, calibration, pairing, registration, poses, reasons for what is refused.

A node, an offline replay and an evaluation hand the same messages to the same classes; a message is any object with the
fields of the .msg file, from rclpy or from a bag. Nothing here knows rclpy.
"""
