/* The semicolon is missing on purpose. */
int main(void)
{
    return 0
}
