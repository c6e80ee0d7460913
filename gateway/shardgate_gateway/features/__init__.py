"""What stands on the kernel: each folder is one feature, mounted by one line of `app.py`.

A feature uses the kernel, HTTP, and features below it; nobody else imports a feature, and a gateway without it works.
"""
